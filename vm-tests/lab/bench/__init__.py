"""Trivet's balancer measured against HAProxy and nginx, like for like, in one run (docs/benchmarks.md)."""
