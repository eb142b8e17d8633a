"""Plain requests of the hot path, answered beside MLflow's handlers: one set-based statement each, on asyncpg.

MLflow's handlers stay the reference. What is not plain (a field, filter or tag that is not known here, a run that is
not there, a conflict, whatever a handler would refuse) is replayed to them, and their answer goes out; nothing has been
written by then that they would not write as well. `paths` lists what is answered; `tests/stack/test_fast.py` sends both
the same requests and compares answers and rows.
"""
