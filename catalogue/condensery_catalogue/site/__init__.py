"""The catalogue as a web site of plain files: ``condensery site build``."""
