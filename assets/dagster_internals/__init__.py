"""The only place that touches modules of Dagster's that are not its public interface; pinned to one version by a test.

On another version of Dagster look at what each file here imports from ``dagster._core``, then raise :data:`VERSION`.
"""

VERSION = "1.13.27"
"""The version of Dagster that the files here were written for."""
