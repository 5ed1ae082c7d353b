"""What goes wrong, on purpose. ``scripts/faults`` runs it at length, ``tests/tools/test_faults.py`` small."""
