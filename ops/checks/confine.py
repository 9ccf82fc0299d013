"""Runs a command under a seccomp profile of the plain OCI form, as a container runtime would.

    python confine.py PROFILE COMMAND [ARGUMENT...]
"""

import ctypes
import json
import os
import sys

ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}
EPERM = 1
OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
PR_SET_NO_NEW_PRIVS = 38


class Comparison(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def library():
    found = ctypes.CDLL("libseccomp.so.2")
    found.seccomp_init.restype = ctypes.c_void_p
    return found


def action(name, errno):
    return ACTIONS[name] | (errno if name == "SCMP_ACT_ERRNO" else 0)


def comparison(one):
    operator = 1 + OPERATORS.index(one["op"].removeprefix("SCMP_CMP_"))
    return Comparison(one["index"], operator, one["value"], one.get("valueTwo", 0))


def confine(profile):
    seccomp = library()
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet", EPERM))
    context = ctypes.c_void_p(seccomp.seccomp_init(default))
    for rule in profile["syscalls"]:
        what = action(rule["action"], rule.get("errnoRet") or EPERM)
        conditions = [comparison(one) for one in rule.get("args") or []]
        array = (Comparison * max(1, len(conditions)))(*conditions)
        for name in rule["names"]:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            # Calls of other architectures have no number here; the default's own action is no rule.
            if number < 0 or what == default:
                continue
            added = seccomp.seccomp_rule_add_exact_array(
                context, what, number, len(conditions), array
            )
            if added != 0:
                sys.exit(f"libseccomp refuses the rule for {name}: {os.strerror(-added)}")
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("no_new_privs is refused")
    if seccomp.seccomp_load(context) != 0:
        sys.exit("the kernel refuses the filter")


def main():
    with open(sys.argv[1]) as file:
        profile = json.load(file)
    confine(profile)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
