"""How vectors are computed, and at what precision, on one footing: ``experiments``, ``measure``, ``claims``, …"""
