"""The words of the commands are a contract: scripts and habits depend on them. A flag may come, none may change or go.

A new flag gets its place in the table here in the same commit; whoever takes one out breaks somebody's script.
"""

import re

import typer

from mmret.cli import app
from tests.conftest import CHECKOUT

WORDS = """
run          --lake --images --remove --forget-missing --profile --shard-size --set --dry-run --json --on
status       --lake --json
backfill     --lake --stage --partition --url --wait --dry-run
estimate     --lake --set --rate --json
quality      --lake --shard --anew/--no-anew --pictures --set --json
sql          QUERY --lake --as-of --json --csv --parquet --wide
diff         BEFORE AFTER --lake --table --rows --json
bands        --lake --plot --propose/--no-propose --json
search       --lake --recipe --image --text -k --rerank --rerank-depth --why --json
serve        --lake --recipe --rerank --port --host --token-file --allow-host --allow-origin --allow-url --rate --precision
             --dimensions --index-from --limit
evaluate     --lake --triplets --recipe --checkpoint --json
score        BENCHMARK --annotations --predictions --subset-predictions --partial/--no-partial --soft/--no-soft
             --remove-reference/--no-remove-reference --gallery --json
benchmark    NAME --images --annotations --checkpoint --lake --out --recipe --template --gallery
             --allow-missing/--no-allow-missing --paraphrases/--no-paraphrases --batch-size --json
study        --lake --images --profile --seeds --set --picture --show --markdown --json
train        --lake --on --recipe --workers
teach        --lake --recipe --scores
check        --lake --recipe --filter
merge        --lake --recipe --adapter --out --dtype --checkpoint --weight --method --base
embed        SOURCES --out --lake --recipe --checkpoint --what --format --query --dimensions --precision --device --devices
             --processes --dtype --batch-size --json
export       --lake --format --out --split --without-rejected --only-accepted --licence --pictures --negatives --as-of --json
export-onnx  --lake --recipe --checkpoint --out --format --json
card         --lake --out --recipe
compact      --lake --forget-opted-out --json
import       WHAT --lake --annotations --images --profile --name --licence --json
register     COMMAND --lake --port --host
gallery      --lake --port --host --reviewer --no-browser
"""


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^([\w-]+)((?: .*\n|\n)+)", WORDS, re.M)
    return {name: set(words.split()) for name, words in rows}


def actual() -> dict[str, set[str]]:
    return {
        name: {
            parameter.name.upper()
            if parameter.param_type_name == "argument"
            else "/".join([*parameter.opts, *parameter.secondary_opts])
            for parameter in command.params
        }
        for name, command in typer.main.get_command(app).commands.items()
    }


def test_commands_and_flags_are_those_of_the_table():
    documented_words, actual_words = documented(), actual()
    assert actual_words.keys() == documented_words.keys()
    for command, words in documented_words.items():
        lost, new = words - actual_words[command], actual_words[command] - words
        assert not lost and not new, f"mmret {command}: lost {sorted(lost)}, not in the table {sorted(new)}"


def test_every_command_stands_in_a_file_of_its_name():
    for command in documented():
        stem = command.replace("-", "_")
        files = [CHECKOUT / "mmret" / "cli" / f"{name}.py" for name in (stem, f"{stem}_")]
        assert any(file.exists() for file in files), command
