"""Alarms: what failed in runs of the UI, said once and in words, to the log, by mail and to a webhook."""
