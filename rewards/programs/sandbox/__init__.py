"""Where programs that a model wrote are run, and what they answered.

    reward process          walls.py: which walls there are          sandbox.py: one run
      │ job, by a file that only pid 1 reads             ▲ what came of each test, by a pipe that only pid 1 holds
    ══╪══════════════════════ namespaces or bubblewrap ══╪═════════════════════════════════════════════════════════
      ▼                                                  │
    pid 1 (inside.py): puts up the walls, confines itself, then examines (examiner.py): gives inputs, hears values
      │ a letter a program                  ▲ values (values.py): plain data, compared out of the program's reach
      ▼                                     ▼
    spawner.py ──fork──▶ the program (program.py), under the filter of system calls (seccomp.py), one at a time

The spawner is forked before pid 1 reads the tests: no program has ever held a test, an expected value, or a way to say that
it passed. It answers calls, and nothing that it answers is more than a value.

What runs inside is sent along as code (see INSIDE): it imports next to nothing, since the start of a sandbox is its cost.
"""
