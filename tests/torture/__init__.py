"""Torture: kills, failing disks, damaged files, many processes, and fuzzing, until something breaks.

    make torture                                # all of it, some 25 minutes, with a table of figures at the end
    cd tests && ../.venv/bin/python -m torture kills --count 500 --seed 7
    cd tests && ../.venv/bin/python -m torture --quick

Every part compares the index with a model kept in plain Python (state.py), and names the seed that brings a finding
back.
"""
