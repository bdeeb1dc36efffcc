"""Automation: conditions, schedules, sensors, jobs and pools, all of which ask the lake what is stale."""
