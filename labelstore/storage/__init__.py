"""Bytes and nothing else: files that survive crashes, locks, and objects behind URLs.

Internal: what stands here may change in any version.
"""
