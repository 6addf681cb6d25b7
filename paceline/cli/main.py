"""Every command of `paceline`: each parses, wires and prints; an error ends with one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paceline.cli.account_keys import export_key, import_key, new_key
from paceline.cli.api_keys import api_key_app
from paceline.cli.audit import audit_app
from paceline.cli.bridge import bridge_app
from paceline.cli.command import NumberCommand, run_command
from paceline.cli.contacts import contacts_app
from paceline.cli.cost import cost_app
from paceline.cli.credits import credits_app
from paceline.cli.econ import econ_app
from paceline.cli.environment import get_default_home
from paceline.cli.grant import grant_app
from paceline.cli.keys import keys_app
from paceline.cli.multisig import multisig_app
from paceline.cli.pool import pool_app
from paceline.cli.propose import proposals, propose_app, vote
from paceline.cli.quotes import quotes, vote_quote
from paceline.cli.race import race_app
from paceline.cli.runs import run_app
from paceline.cli.state import state_app
from paceline.cli.train import train_app
from paceline.cli.tx import tx_app

HELP = (
    "A network of anyone's machines that serves and trains open models: votes come from compute, results are checked."
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
light = typer.Typer(no_args_is_help=True, help="Verify a chain without following it.")
app.add_typer(light, name="light")
beacon = typer.Typer(no_args_is_help=True, help="Verify the network's chance.")
app.add_typer(beacon, name="beacon")
app.add_typer(race_app, name="race")
app.add_typer(audit_app, name="audit")
keys_app.command("new")(new_key)
keys_app.command("import")(import_key)
keys_app.command("export")(export_key)
app.add_typer(keys_app, name="keys")
app.add_typer(credits_app, name="credits")
app.add_typer(econ_app, name="econ")
app.add_typer(cost_app, name="cost")
app.add_typer(train_app, name="train")
app.add_typer(run_app, name="run")
app.add_typer(api_key_app, name="api-key")
app.add_typer(state_app, name="state")
app.add_typer(propose_app, name="propose")
app.command()(vote)
app.command()(proposals)
app.add_typer(pool_app, name="pool")
app.add_typer(bridge_app, name="bridge")
app.add_typer(tx_app, name="tx")
app.add_typer(contacts_app, name="contacts")
app.add_typer(multisig_app, name="multisig")
app.add_typer(grant_app, name="grant")
receipt = typer.Typer(no_args_is_help=True, help="Proof of single answers.")
app.add_typer(receipt, name="receipt")
price = typer.Typer(no_args_is_help=True, help="The price of a unit of compute, on which hosts vote.")
price.command()(quotes)
price.command("vote-quote")(vote_quote)
app.add_typer(price, name="price")
rewards = typer.Typer(no_args_is_help=True, help="What hosts earn, and why.")
app.add_typer(rewards, name="rewards")
upgrade = typer.Typer(no_args_is_help=True, help="Planned changes of the network's rules.")
app.add_typer(upgrade, name="upgrade")

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the network. Default: ~/.paceline")]
PeerPortOption = Annotated[
    int, typer.Option(min=1, max=65_000, help="Port for other nodes; their engines use the one above.")
]
OwnerOption = Annotated[
    str | None, typer.Option("--for", help="Node that granted this message to the key that --name gives.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def demo(
    *,
    nodes: Annotated[int, typer.Option(help="Node processes, at least 5.")] = 5,
    seed: Annotated[int | None, typer.Option(help="Fixes keys, reveals, prompts and data order.")] = None,
    data: Annotated[Path | None, typer.Option(help="Text to train on. Default: the works of Shakespeare.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results to this file.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the web endpoint; 0 takes a free one.")] = 0,
    home: HomeOption = None,
) -> None:
    """Play the whole job: race, answer, train, check, settle, with three cheaters that get caught."""
    from paceline.cli.demo import DemoOptions, run_demo  # noqa: PLC0415 - loads torch

    options = DemoOptions(nodes=nodes, seed=seed, data=data, json_path=json, keep=keep, port=port, home=home)
    run_command(lambda: run_demo(options, Console()))


@app.command()
def up(
    *,
    nodes: Annotated[int | None, typer.Option(help="Node processes of a new network. Default: 5")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of API and dashboard; 0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback needs --api-key.")
    ] = "127.0.0.1",
    api_key: Annotated[list[str] | None, typer.Option(help="Key that requests must carry; may be repeated.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Who orders blocks of a new network: solo or cometbft. Default: solo")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="What the nodes serve: a name of `paceline doctor` or a folder; may be repeated."),
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(help="Host under which others reach the nodes: opens the network to other machines.")
    ] = None,
    peer_port: PeerPortOption = 8100,
    bridge: Annotated[
        str | None,
        typer.Option(help="CHAIN:0xCONTRACT of a new network's bridge, which then begins without test dollars."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Run a network on this machine until Ctrl-C: OpenAI-compatible API and dashboard."""
    from paceline.cli.up import UpOptions, run_up  # noqa: PLC0415 - loads the node

    keys = tuple(api_key or ())
    options = UpOptions(
        nodes=nodes,
        port=port,
        host=host,
        api_keys=keys,
        home=home or get_default_home(),
        engine=engine,
        models=tuple(model or ()),
        advertise=advertise,
        peer_port=peer_port,
        bridge=bridge,
    )
    run_command(lambda: run_up(options, Console()))


@app.command()
def join(
    *,
    url: Annotated[str, typer.Argument(help="A node of the network, as `paceline up --advertise` prints it.")],
    name: Annotated[str | None, typer.Option(help="What to be called. Default: this machine's name.")] = None,
    advertise: Annotated[
        str | None, typer.Option(help="Host under which others reach this machine. Default: as the network sees it.")
    ] = None,
    peer_port: PeerPortOption = 8100,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the own API and dashboard.")] = 8000,
    model: Annotated[
        list[str] | None, typer.Option(help="What to serve: a name of `paceline doctor` or a folder; may be repeated.")
    ] = None,
    serves: Annotated[bool, typer.Option("--serve/--no-serve", help="Load the model, answer and check.")] = True,
    trains: Annotated[bool, typer.Option("--train/--no-train", help="Take seats in training runs.")] = True,
    chain_id: Annotated[str | None, typer.Option(help="Refuse any other network.")] = None,
    trust_height: Annotated[int | None, typer.Option(min=1, help="Header to sync from, with --trust-hash.")] = None,
    trust_hash: Annotated[str | None, typer.Option(help="Its hash in hex, from somebody you trust.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look whether this machine is ready.")] = False,
    home: HomeOption = None,
) -> None:
    """Become a node of a network that runs elsewhere: self-test, keys, sync, and work until Ctrl-C."""
    from paceline.cli.join import JoinOptions, run_join  # noqa: PLC0415 - loads the node
    from paceline.node.supervisor import Listen  # noqa: PLC0415 - loads the node

    options = JoinOptions(
        url=url,
        home=home or get_default_home(),
        name=name,
        peer_port=peer_port,
        advertise=advertise,
        serves=serves,
        models=tuple(model or ()),
        trains=trains,
        chain_id=chain_id,
        trust_height=trust_height,
        trust_hash=trust_hash,
        check_only=check,
        listen=Listen(port=port),
    )
    run_command(lambda: run_join(options, Console()))


@app.command()
def sponsor(
    *,
    url: Annotated[str, typer.Argument(help="The new node, as `paceline join` prints it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Pay without asking.")] = False,
    home: HomeOption = None,
) -> None:
    """Pay the deposit of a new node from this network's account; it comes back when the node leaves."""
    from paceline.cli.sponsor import SponsorOptions, run_sponsor  # noqa: PLC0415 - loads the node

    options = SponsorOptions(url=url, home=home or get_default_home(), yes=yes)
    run_command(lambda: run_sponsor(options, Console()))


@app.command()
def report(
    *,
    task: Annotated[
        str, typer.Argument(help="The answer's task: 64 hex digits, as its receipt or the header x-paceline-task says.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Pay without asking.")] = False,
    home: HomeOption = None,
) -> None:
    """Doubt an answer: fresh checkers run it again. The fee comes back when it was wrong, and pays them when it was not."""
    from paceline.cli.report import ReportOptions, run_report  # noqa: PLC0415 - loads the node

    options = ReportOptions(task=task, home=home or get_default_home(), yes=yes)
    run_command(lambda: run_report(options, Console()))


@app.command()
def leave(
    *,
    name: Annotated[
        str | None, typer.Argument(help="This home's node, or one it sponsored. Default: its first.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Take a node out of the network; its deposit goes back to its sponsor."""
    from paceline.cli.sponsor import run_leave  # noqa: PLC0415 - loads the node

    run_command(lambda: run_leave(name, home or get_default_home(), Console()))


@app.command()
def status(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Where the network stands: height, app hash, every node."""
    from paceline.cli.status import print_status  # noqa: PLC0415 - loads the node

    run_command(lambda: print_status(home or get_default_home(), as_json=json))


@app.command()
def chat(
    *,
    message: Annotated[str | None, typer.Argument(help="One question. Default: a conversation.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for the check of each answer.")] = 3.0,
    home: HomeOption = None,
) -> None:
    """Talk to the network; each answer shows who made it, what it cost and how its check stands."""
    from paceline.cli.chat import ChatOptions, run_chat  # noqa: PLC0415 - loads the node

    options = ChatOptions(home=home or get_default_home(), message=message, max_tokens=max_tokens, wait_seconds=wait)
    run_command(lambda: run_chat(options, Console()))


@app.command()
def doctor(*, home: HomeOption = None) -> None:
    """What this machine lacks, and the line that mends it."""
    from paceline.cli.doctor import run_doctor  # noqa: PLC0415 - probes heavy libraries

    if not run_doctor(home or get_default_home(), Console()):
        raise typer.Exit(1)


@light.command("verify")
def light_verify(
    *,
    url: Annotated[str, typer.Option(help="RPC of a CometBFT node, such as http://host:26657.")],
    trust_height: Annotated[int, typer.Option(min=1, help="Height of a header you trust.")],
    trust_hash: Annotated[str, typer.Option(help="Its hash in hex, from a source other than --url.")],
    witness: Annotated[list[str] | None, typer.Option(help="RPC of another node to compare with; repeatable.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Height to verify. Default: the latest.")] = None,
    account: Annotated[str | None, typer.Option(help="Address whose balance to prove.")] = None,
    node: Annotated[str | None, typer.Option(help="Name or address of a node: its weight and voting power.")] = None,
    group: Annotated[bool, typer.Option("--group", help="The key of the beacon group that signs now.")] = False,
    key: Annotated[str | None, typer.Option(help="Any key of the state, in hex.")] = None,
    proof: Annotated[Path | None, typer.Option(help="File with its value and proof, instead of asking --url.")] = None,
    max_age_seconds: Annotated[int, typer.Option(min=1, help="How old the state of a value may be.")] = 60,
    trusting_period_seconds: Annotated[int, typer.Option(min=1, help="How long a header stays trusted.")] = 86_400,
    clock_drift_seconds: Annotated[int, typer.Option(min=0, help="How far a header may be ahead of this clock.")] = 10,
    json: JsonFlag = False,
) -> None:
    """From a trusted header, verify a later one by the power that signed it, and values of the state under it."""
    from paceline.cli.light import LightOptions, print_light_verify  # noqa: PLC0415 - loads the light client

    options = LightOptions(
        url=url,
        witnesses=tuple(witness or ()),
        trust_height=trust_height,
        trust_hash=trust_hash,
        height=height,
        key=key,
        proof=proof,
        account=account,
        node=node,
        group=group,
        max_age_seconds=max_age_seconds,
        trusting_period_seconds=trusting_period_seconds,
        clock_drift_seconds=clock_drift_seconds,
    )
    run_command(lambda: print_light_verify(options, as_json=json))


@beacon.command("verify")
def beacon_verify(
    *,
    height: Annotated[int, typer.Option(min=1, help="A height that the group signs.")],
    peer: Annotated[
        list[str] | None, typer.Option(help="Node to ask, as name=http://host:port; repeatable. Default: all that run.")
    ] = None,
    group_key: Annotated[str | None, typer.Option(help="Key of the group in hex, when you know it.")] = None,
    rpc: Annotated[str | None, typer.Option(help="RPC of a CometBFT node that proves the group's key.")] = None,
    trust_height: Annotated[int | None, typer.Option(min=1, help="With --rpc: height of a header you trust.")] = None,
    trust_hash: Annotated[
        str | None, typer.Option(help="With --rpc: its hash, from a source other than --rpc.")
    ] = None,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Check the beacon of a height yourself: needs the genesis of the network and no secret."""
    from paceline.cli.beacon import BeaconOptions, print_beacon_verify, read_trust  # noqa: PLC0415 - loads the node

    def verify() -> None:
        options = BeaconOptions(
            home=home or get_default_home(),
            height=height,
            peers=tuple(peer or ()),
            group_key=group_key,
            trust=read_trust(rpc, trust_height, trust_hash),
        )
        print_beacon_verify(options, as_json=json)

    run_command(verify)


@receipt.command("get")
def receipt_get(
    *,
    task: Annotated[str, typer.Argument(help="Task id, as the header x-paceline-task gives it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; it will hold the prompt.")],
    home: HomeOption = None,
) -> None:
    """Fetch the proof of an answer, while its epoch is open."""
    from paceline.cli.receipt import save_receipt  # noqa: PLC0415 - loads the node

    run_command(lambda: save_receipt(task, out, home or get_default_home()))


@receipt.command("verify")
def receipt_verify(
    *,
    file: Annotated[Path, typer.Argument(help="What `receipt get` wrote.")],
    header_hash: Annotated[
        str | None, typer.Option(help="Under CometBFT: hash of the receipt's header, as `light verify` proves it.")
    ] = None,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Check without any network that this answer came from this model for this prompt, who checked it, what it cost."""
    from paceline.cli.receipt import print_receipt_verify  # noqa: PLC0415 - loads the node

    run_command(lambda: print_receipt_verify(file, home or get_default_home(), header_hash, as_json=json))


@price.command("show")
def price_show(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Price, votes, what the next price would be, and what a token of each model costs."""
    from paceline.cli.economy import print_prices  # noqa: PLC0415 - loads the node

    run_command(lambda: print_prices(home or get_default_home(), as_json=json))


@price.command("vote", cls=NumberCommand)
def price_vote(
    *,
    amount: Annotated[str, typer.Argument(help='Of a unit of compute, such as "2 micoin".')],
    node: Annotated[str | None, typer.Option("--name", help="Node that votes. Default: the home's first.")] = None,
    owner: OwnerOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the ledger would say; send nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what a unit of compute should cost; the weighted median of all votes is the price of the next epoch."""
    from paceline.cli.economy import vote_price  # noqa: PLC0415 - loads the node

    run_command(lambda: vote_price(home or get_default_home(), node, amount, owner, dry_run=dry_run))


@rewards.command("explain")
def rewards_explain(
    *,
    node: Annotated[str, typer.Argument(help="Name of the node.")],
    epoch: Annotated[int | None, typer.Option(min=0, help="Which settlement. Default: the last one.")] = None,
    home: HomeOption = None,
    json: JsonFlag = False,
) -> None:
    """Explain with numbers what a node was released, and what it was not."""
    from paceline.cli.economy import print_reward  # noqa: PLC0415 - loads the node

    run_command(lambda: print_reward(home or get_default_home(), node, epoch, as_json=json))


@app.command()
def supply(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """Where every coin is, and how far issuance has come."""
    from paceline.cli.economy import print_economy  # noqa: PLC0415 - loads the node

    run_command(lambda: print_economy(home or get_default_home(), as_json=json))


@upgrade.command("vote")
def upgrade_vote(
    *,
    name: Annotated[str, typer.Argument(help="Name of the upgrade, as its release tells it.")],
    height: Annotated[int, typer.Argument(min=1, help="First height of the new rules.")],
    cancel: Annotated[bool, typer.Option("--cancel", help="Vote for taking the standing plan back.")] = False,
    node: Annotated[str | None, typer.Option("--name", help="Node that votes. Default: the home's first.")] = None,
    owner: OwnerOption = None,
    home: HomeOption = None,
) -> None:
    """Say yes to an upgrade; more than two thirds of all race weight plan it or take it back."""
    from paceline.cli.upgrade import VoteOptions, send_vote  # noqa: PLC0415 - loads the node

    options = VoteOptions(
        home=home or get_default_home(), name=name, height=height, node=node, cancel=cancel, owner=owner
    )
    run_command(lambda: send_vote(options))


@upgrade.command("status")
def upgrade_status(*, home: HomeOption = None, json: JsonFlag = False) -> None:
    """The plan, the votes, what is done, and whether this software has it."""
    from paceline.cli.upgrade import print_upgrade_status  # noqa: PLC0415 - loads the node

    run_command(lambda: print_upgrade_status(home or get_default_home(), as_json=json))


@app.command(hidden=True)
def node(
    *,
    home: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option()],
    web_host: Annotated[str, typer.Option()] = "127.0.0.1",
    web_port: Annotated[int, typer.Option()] = 0,
) -> None:
    """Run one node of a home; `up` starts these."""
    from paceline.cli.process import end_process, run_node  # noqa: PLC0415 - loads torch

    code = 1
    try:
        run_command(lambda: run_node(home, name, web_host, web_port))
        code = 0
    except typer.Exit as ended:
        code = ended.exit_code
    finally:
        end_process(code)
