"""The command line. Commands import what they need themselves, so that ``list`` and ``show`` start fast."""

from __future__ import annotations

import gc

gc.disable()  # Nothing is garbage while modules are imported and commands declared; looking for it takes time.

import importlib.metadata
from pathlib import Path
from typing import Annotated

import typer

from condensery.errors import UnknownKey, UsageError
from condensery_catalogue.app import App, keys_of, waited_for, with_facets
from condensery_catalogue.endings import run_app
from condensery_catalogue.listing import FACETS

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one value: stages.0.hinton-kd.T=2")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the run.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Path | None, typer.Option(help="Folder for report.json, log and checkpoints.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what the out folder holds.")]
Launch = Annotated[int, typer.Option(min=1, help="Play it in this many processes, started by torchrun.")]
Explain = Annotated[bool, typer.Option("--explain", help="Print the resolved recipe and the call order, and stop.")]

app = App(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(
    invoke_without_command=True,
    help="A catalogue of neural-network compression: list it, run it, compose it, reproduce it.",
)
def only_where_it_may(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Say the version and stop.")] = False,
) -> None:
    """Refuse what several processes would do several times."""
    from condensery_catalogue.launching import launched

    if version:
        print(f"condensery {importlib.metadata.version('condensery')}")
        raise typer.Exit
    if launched() and context.invoked_subcommand not in ("run", "compose"):
        raise UsageError(f"WORLD_SIZE > 1: {context.invoked_subcommand} is for one process; start it without torchrun")


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for what comes out.")] = Path("runs", "demo")) -> None:
    """Show what this is in a minute: a CNN and a ViT made smaller, on data that come with it."""
    with waited_for("starting"):
        from condensery_catalogue.demo import show_demo

    show_demo(out)


@app.command("list")
@with_facets
def list_(json: Json = False, **chosen: str | None) -> None:
    """List the papers and methods of the catalogue; say what they should have."""
    from condensery_catalogue.listing import list_cards

    list_cards({name: chosen[name.replace("-", "_")] for name in FACETS}, as_json=json)


@app.command("browse")
@with_facets
def browse_(
    words: Annotated[str, typer.Argument(help="What to search for: name, author, year, a Chinese term, [36].")] = "",
    **chosen: str | None,
) -> None:
    """Browse the catalogue in this terminal: facets, cards, and a composition that is printed at the end."""
    from condensery_catalogue.browsing import browse

    browse({name: chosen[name.replace("-", "_")] for name in FACETS}, words)


@app.command()
def show(key: Annotated[str, typer.Argument(autocompletion=keys_of("papers", "methods"))], json: Json = False) -> None:
    """Show one card: paper, hyper-parameters, claims and where they come from."""
    from condensery_catalogue.showing import show_card

    show_card(key, as_json=json)


@app.command()
def fit(
    model: Annotated[
        str,
        typer.Argument(
            help="A model: resnet20, 'vit(dim=24)'; for a net of your own: Python.", autocompletion=keys_of("models")
        ),
    ],
    task: Annotated[str | None, typer.Option(help="A task that the net fits; digits by default.")] = None,
    method: Annotated[str | None, typer.Option(help="Say all of this method alone: partners, command.")] = None,
    json: Json = False,
) -> None:
    """Tell which methods a net can take, why not the others, and what goes with what."""
    from condensery_catalogue.fitting import print_fit

    print_fit(model, task, method, as_json=json)


@app.command()
def plugins(json: Json = False) -> None:
    """List the installed plugins, what they offer, and what is wrong with them."""
    from condensery_catalogue.listing import list_plugins

    list_plugins(as_json=json)


@app.command()
def models(json: Json = False) -> None:
    """List the models and their settings."""
    from condensery_catalogue.shelves import list_models

    list_models(as_json=json)


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks: what is measured, on which net, and with which data."""
    from condensery_catalogue.shelves import list_tasks

    list_tasks(as_json=json)


@app.command()
def data(json: Json = False) -> None:
    """Tell which data the tasks need, whether they are there, and where to get them."""
    from condensery_catalogue.shelves import list_data

    list_data(as_json=json)


@app.command()
def cache(
    action: Annotated[str | None, typer.Argument(help="clear: remove something; nothing: say what is kept.")] = None,
    kinds: Annotated[list[str] | None, typer.Argument(help="What to remove: nets, answers, quality...")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before removing.")] = False,
    json: Json = False,
) -> None:
    """Say what is kept between runs, or remove some of it."""
    from condensery_catalogue.shelves import clear_cache, list_cache

    if action == "clear":
        clear_cache(kinds or (), sure=yes)
    elif action is None:
        list_cache(as_json=json)
    else:
        raise UnknownKey("action", action, ["clear"], where="cache")


@app.command()
def check(
    package: Annotated[str, typer.Argument(help="An installed package, a plugin, or a folder.")],
    all: Annotated[bool, typer.Option("--all", help="Try what takes long on all networks, not on one.")] = False,
) -> None:
    """Say what is wrong with a plugin, what it lacks to be published, and try its methods by the contract suite."""
    from condensery_catalogue.checking import check_package

    if not check_package(package, everything=all):
        raise typer.Exit(1)


@app.command("new-method")
def new_method(
    key: Annotated[str, typer.Argument(help="Its key: lower-case words joined by '-'.")],
    family: Annotated[str, typer.Option(help="pruning, quantization, distillation or joint.")] = "pruning",
    into: Annotated[Path, typer.Option(help="The folder that the package's own will lie in.")] = Path(),
    in_tree: Annotated[
        bool, typer.Option("--in-tree", help="No package: four files in the checkout in the current folder.")
    ] = False,
) -> None:
    """Make a package with a small method, its card, recipe and test, to put a paper's in their place."""
    from condensery_catalogue.new_method import print_new_method

    print_new_method(key, family, into, in_tree=in_tree)


@app.command()
def run(
    recipe: Path,
    set: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    out: Out = None,
    resume: Resume = False,
    launch: Launch = 1,
    explain: Explain = False,
    json: Json = False,
) -> None:
    """Run a recipe from a YAML file."""
    from condensery_catalogue.running import RunOptions, run_file

    options = RunOptions(
        set=set or (),
        seed=seed,
        device=device,
        out=out,
        resume=resume,
        launch=launch,
        explain=explain,
        as_json=json,
    )
    run_file(recipe, options)


@app.command()
def compose(
    composition: Annotated[str, typer.Argument(help='Quote it: "network-slimming -> hinton-kd{teacher=original}"')],
    model: Annotated[
        str | None, typer.Option(help="A model: resnet20, 'timm/vit_tiny_patch16_224(img_size=32)'")
    ] = None,
    task: Annotated[str, typer.Option(help="A task: digits, cifar10, word-language...")] = "digits",
    epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of each stage.")] = None,
    set: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    out: Out = None,
    resume: Resume = False,
    launch: Launch = 1,
    explain: Explain = False,
    json: Json = False,
) -> None:
    """Run a composition of methods, written in one line."""
    from condensery_catalogue.running import RunOptions, run_composition

    options = RunOptions(
        set=set or (),
        seed=seed,
        device=device,
        out=out,
        resume=resume,
        launch=launch,
        explain=explain,
        as_json=json,
    )
    run_composition(composition, model, task, epochs, options)


@app.command()
def search(
    recipe: Path,
    space: Annotated[Path, typer.Option(help="YAML: parameters, objectives, limits; see docs/searching.md.")],
    trials: Annotated[int, typer.Option(min=1, help="How many, those in the out folder included.")],
    sampler: Annotated[str, typer.Option(help="random, tpe, nsga2, or a plugin's; 'nsga2(population=8)'.")] = "tpe",
    budget: Annotated[str, typer.Option(help="full, or quick: no training, a small part of validation.")] = "full",
    prune: Annotated[str | None, typer.Option(help="Stop what is not worth going on with: median, halving.")] = None,
    set: Set = None,
    seed: Seed = None,
    device: Device = "auto",
    out: Out = None,
    json: Json = False,
) -> None:
    """Search a space of settings of a recipe; the same command with the same --out goes on."""
    from condensery_catalogue.running import RunOptions
    from condensery_catalogue.searching import search_recipe

    options = RunOptions(set=set or (), seed=seed, device=device, out=out, as_json=json)
    search_recipe(recipe, space, trials, sampler, budget, prune, options)


@app.command()
def reproduce(
    key: Annotated[
        list[str] | None,
        typer.Argument(help="The reproduction; with --pending any number.", autocompletion=keys_of("recipes")),
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="smoke (seconds), desk (minutes; the default where there is one) or paper.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; the tier's own number by default.")] = None,
    device: Device = "auto",
    out: Out = None,
    store: Annotated[bool, typer.Option("--store", help="Publish the result: keep it beside the recipe.")] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Run what lacks a result, most claims a minute first.")] = (
        False
    ),
    budget: Annotated[str | None, typer.Option(help="With --pending: stop after this long, such as 25m.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="With --pending: processes side by side.")] = 1,
    json: Json = False,
) -> None:
    """Reproduce a paper: its claim beside the figure measured here."""
    from condensery_catalogue.running import RunOptions

    if pending:
        if seeds is not None or store or json:
            raise UsageError("--seeds, --store and --json go with one reproduction, not with --pending")
        with waited_for("starting"):
            from condensery_catalogue.pending import run_pending

        run_pending([tier] if tier else (), budget, jobs, out, device, key or ())
        return
    if len(key or ()) != 1 or budget is not None or jobs != 1:
        raise UsageError("say one reproduction; --budget, --jobs and several or no keys go with --pending")
    with waited_for("starting"):
        from condensery_catalogue.reproduce import reproduce_paper

    reproduce_paper((key or [""])[0], tier, seeds, RunOptions(device=device, out=out, as_json=json), store=store)


@app.command()
def matrix(
    budget: Annotated[str | None, typer.Option(help="Stop after this long, such as 60m; again goes on.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 1,
    only: Annotated[str | None, typer.Option(help="Cells whose titles fit: 'CNN: * -> lsq', or a part of one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which pairs come first, beyond the representatives.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder that keeps what is run; runs/matrix by default.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Publish what is known into this checkout.")] = False,
) -> None:
    """Run every method alone and pairs of them on small nets: what works, what doesn't, and why not."""
    with waited_for("starting"):
        from condensery_catalogue.matrix.refreshing import refresh_matrix

    refresh_matrix(budget, jobs, only, seed, out, store=store)


results_app = App(help="Carry finished runs and results from one machine to another.", no_args_is_help=True)
app.add_typer(results_app, name="results")


@results_app.command("export")
def export_(folder: Path, target: Path) -> None:
    """Pack the reports and results below a folder, such as runs/pending, into one zip file."""
    from condensery_catalogue.parcels import print_export

    print_export(folder, target)


@results_app.command("import")
def import_(source: Path, folder: Path) -> None:
    """Unpack an export into a folder: hashes are checked, nothing is overwritten."""
    from condensery_catalogue.parcels import print_import

    print_import(source, folder)


site_app = App(help="The catalogue as a web site of plain files.", no_args_is_help=True)
app.add_typer(site_app, name="site")
Site = Annotated[Path, typer.Option("--out", help="Folder of the site; it works from disk and under any address.")]


@site_app.command("build")
def build_(out: Site) -> None:
    """Write the site; a damaged result stops it before anything is written."""
    with waited_for("starting"):
        from condensery_catalogue.site.building import print_build

    print_build(out)


@site_app.command("serve")
def serve_(
    out: Site = Path("build/site"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Write the site, and serve it to this machine alone."""
    with waited_for("starting"):
        from condensery_catalogue.site.building import serve

    serve(out, port)


@app.command()
def measure(
    target: Annotated[str, typer.Argument(help="A model, resnet20 or 'vit(dim=24)', or an artifact: net.safetensors")],
    task: Annotated[str | None, typer.Option(help="A task that the net fits; its own by default.")] = None,
    device: Device = "auto",
    layers: Annotated[bool, typer.Option("--layers", help="Show each layer too.")] = False,
    batched: Annotated[bool, typer.Option("--batched", help="Time batches of 64 examples too.")] = False,
    json: Json = False,
) -> None:
    """Measure a net: parameters, work, bytes, memory, speed."""
    from condensery_catalogue.measuring import measure_target

    measure_target(target, task, device, layers=layers, batched=batched, as_json=json)


@app.command("inspect")
def inspect_(artifact: Path, json: Json = False) -> None:
    """Show where the bytes of an artifact are, layer by layer."""
    from condensery_catalogue.inspecting import inspect_file

    inspect_file(artifact, as_json=json)


gc.freeze()
gc.enable()


def main() -> None:
    """Run the command line; an error that a user can act on is one line, exit code 2."""
    run_app(app)


if __name__ == "__main__":
    main()
