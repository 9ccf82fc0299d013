"""Kubernetes quantities as numbers."""

UNITS = {"": 1, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text):
    text = str(text)
    digits = text.rstrip("mkKMGTi")
    return float(digits) * UNITS[text[len(digits) :]]


def seconds(text):
    return float(str(text).removesuffix("s"))
