"""A folder for each paper: its recipe, and the results that were measured with it. The catalogue runs them."""

from __future__ import annotations

from condensery.contract import Papers

plugin = Papers(__name__)
