"""Faults on demand: one catalogue, and a proxy that applies it to real connections beside the gateway."""
