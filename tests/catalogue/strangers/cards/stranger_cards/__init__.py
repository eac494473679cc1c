"""Cards beside each other, one of them right: the others are named and left out."""

from __future__ import annotations

from condensery.contract import Papers

plugin = Papers(__name__)
