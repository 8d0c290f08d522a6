"""The same bytes through Trivet, HAProxy and nginx to a recording back end; every difference is explained, or it fails.

docs/http-differential.md is made from what this package knows (known.toml).
"""
