"""Years of simulated patients, judged by the real SQL: how often healthy ones alarm, and how soon changes are found."""
