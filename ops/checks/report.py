"""What was checked and what was wrong, printed as it happens."""

import time


class Report:
    def __init__(self):
        self.faults = []
        self.left_out = []
        self.count = 0
        self.section_started = None

    def section(self, name):
        self.end_section()
        self.name, self.section_started, self.section_count = name, time.time(), self.count
        self.section_faults = len(self.faults)

    def end_section(self):
        if self.section_started is None:
            return
        faults = len(self.faults) - self.section_faults
        verdict = "ok" if faults == 0 else f"{faults} faults"
        took = time.time() - self.section_started
        print(f"{self.name:<34} {self.count - self.section_count:>5} checks {took:6.1f} s  {verdict}")
        self.section_started = None

    def check(self, holds, what):
        self.count += 1
        if not holds:
            self.faults.append(f"{self.name}: {what}")
            print(f"  FAULT {what}")
        return bool(holds)

    def note(self, what):
        """Something that was counted and is no fault."""
        print(f"  {what}")

    def leave_out(self, what):
        self.left_out.append(what)

    def finish(self):
        self.end_section()
        for what in self.left_out:
            print(f"left out: {what}")
        print(f"{self.count} checks, {len(self.faults)} faults, {len(self.left_out)} left out")
        return 1 if self.faults else 0
