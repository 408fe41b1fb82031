"""Fixtures that all tests share."""

pytest_plugins = [
    "tests.support.broker",
    "tests.support.certificates",
    "tests.support.links",
    "tests.support.manager",
]
