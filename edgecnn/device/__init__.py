"""Devices: what is known of one (`profile`), how it is reached (`transport`), a folder of ours on it (`place`)."""
