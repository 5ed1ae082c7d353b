"""What goes wrong, on purpose. ``scripts/faults`` runs it at length, ``tests/test_faults.py`` small."""
