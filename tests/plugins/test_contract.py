"""The contract suite over every built-in method; `--condensery-methods KEY` tries one."""

from condensery.testing.test_contract import *
