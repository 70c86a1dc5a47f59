"""The device side: opens an artifact in its engine, runs it and takes raw timings.

It imports nothing else of edgecnn and nothing but the standard library, numpy and one engine, and its syntax is that of
Python 3.8, so that the very files the host checks an artifact with are the ones that time it on a device
(`device/zipapp.py` packs them). Start with `session.open_session`.
"""
