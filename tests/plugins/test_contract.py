"""The contract suite over every built-in method; `--condensery-method KEY` tries one."""

from condensery.testing.test_contract import *
