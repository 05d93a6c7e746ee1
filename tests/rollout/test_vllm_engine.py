"""The real engine: its log-probabilities are the learner's, and weights change under requests in flight."""

import asyncio
import json
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from areal.broker.client import Client
from areal.broker.errors import BrokerError, EngineDied
from areal.broker.trajectory import TokenTrajectory
from areal.broker.transport import Source
from areal.learner.config import LoraConfig, ModelConfig
from areal.learner.packing import pack
from areal.learner.token_policy import TokenPolicy
from areal.rollout.config import EngineConfig
from areal.rollout.engine import Completion, Request
from areal.rollout.vllm_engine import EngineModel, VllmEngine
from areal.rollout.workflow import trajectory_of
from areal.transfer.channel import Channel

from ..transfer.ends import Learner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and those of what it imports
]

T = TypeVar("T")
Do = Callable[[Coroutine[Any, Any, T]], T]

ENGINE = EngineConfig(max_model_len=512, max_num_seqs=32, kv_cache_mib=64, args={"block_size": 32})
PROMPT = (5, 9, 2, 33)


@pytest.fixture(scope="module")
def do() -> Iterator[Do[Any]]:
    """Runs coroutines on one event loop, which an engine is bound to."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with tied embeddings that never ends an answer by itself."""
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model_folder: Path, do: Do[None]) -> Iterator[VllmEngine]:
    engine = VllmEngine(EngineModel(str(model_folder), "float32"), ENGINE)
    do(engine.start())
    yield engine
    do(engine.stop())


def test_the_learner_and_the_engine_agree_on_log_probabilities(
    engine: VllmEngine, model_folder: Path, tmp_path: Path, do: Do[Any]
) -> None:
    policy = TokenPolicy(model_folder, ModelConfig(path=str(model_folder)))
    do(engine.update_weights(1, publish(policy, tmp_path / "1")))
    for temperature in (1.0, 0.7):
        completions = do(answers(engine, count=16, max_tokens=100, temperature=temperature))
        assert {len(completion.tokens) for completion in completions} == {100}
        difference = np.abs(logprobs_of(policy, completions, temperature) - sampled(completions))
        assert difference.mean() < 1e-4
        assert difference.max() < 1e-2


def test_an_update_reaches_the_requests_in_flight(
    engine: VllmEngine, model_folder: Path, tmp_path: Path, do: Do[Any]
) -> None:
    old = TokenPolicy(model_folder, ModelConfig(path=str(model_folder)))
    new = perturbed(TokenPolicy(model_folder, ModelConfig(path=str(model_folder))))
    do(engine.update_weights(10, publish(old, tmp_path / "old")))
    completions = do(answers_across_update(engine, 11, publish(new, tmp_path / "new")))

    versions = np.concatenate([completion.versions for completion in completions])
    assert set(versions) == {10, 11}
    assert sum(set(completion.versions) == {10, 11} for completion in completions) >= 8
    assert all((np.diff(completion.versions) >= 0).all() for completion in completions)
    assert_each_version_is_its_own(completions, {10: old, 11: new})


def test_an_adapter_is_swapped_under_requests_in_flight(model_folder: Path, tmp_path: Path, do: Do[Any]) -> None:
    config = ModelConfig(path=str(model_folder), lora=LoraConfig(rank=4, alpha=8))
    engine = VllmEngine(EngineModel(str(model_folder), "float32", lora_rank=4), ENGINE)
    do(engine.start())
    try:
        old, new = TokenPolicy(model_folder, config), perturbed(TokenPolicy(model_folder, config))
        do(engine.update_weights(0, publish(old, tmp_path / "old")))
        completions = do(answers_across_update(engine, 1, publish(new, tmp_path / "new")))
        assert sum(set(completion.versions) == {0, 1} for completion in completions) >= 8
        assert_each_version_is_its_own(completions, {0: old, 1: new})
    finally:
        do(engine.stop())


@pytest.fixture
def learner(client: Client, run: str) -> Iterator[Learner]:
    """One that hands out its weights from memory."""
    made = Learner(client, run)
    yield made
    made.sender.close()


def held(learner: Learner, version: int, policy: TokenPolicy) -> Source:
    """Where a version is that the learner has just published."""
    learner.publish(version, weights_of(policy))
    published = learner.store.latest()
    assert published is not None
    return learner.store.fetch(published)


def test_weights_from_memory_are_those_of_a_folder(
    engine: VllmEngine, model_folder: Path, tmp_path: Path, do: Do[Any], learner: Learner
) -> None:
    old, new = (TokenPolicy(model_folder, ModelConfig(path=str(model_folder))) for _ in range(2))
    perturbed(new)
    do(engine.update_weights(12, publish(new, tmp_path / "new")))
    by_folder = do(answer(engine, 100, temperature=0.0))
    do(engine.update_weights(13, held(learner, 13, old)))
    between = do(answer(engine, 100, temperature=0.0))
    do(engine.update_weights(14, held(learner, 14, new)))
    directly = do(answer(engine, 100, temperature=0.0))
    assert directly.tokens.tolist() == by_folder.tokens.tolist()
    assert np.array_equal(directly.logprobs, by_folder.logprobs)
    assert set(directly.versions) == {14}
    assert not np.array_equal(between.logprobs, by_folder.logprobs)


def test_weights_from_memory_reach_the_requests_in_flight(
    engine: VllmEngine, model_folder: Path, do: Do[Any], learner: Learner
) -> None:
    old, new = (TokenPolicy(model_folder, ModelConfig(path=str(model_folder))) for _ in range(2))
    do(engine.update_weights(15, held(learner, 15, old)))
    completions = do(answers_across_update(engine, 16, held(learner, 16, perturbed(new))))
    assert sum(set(completion.versions) == {15, 16} for completion in completions) >= 8
    assert_each_version_is_its_own(completions, {15: old, 16: new})


def test_weights_that_come_in_half_are_never_served(
    engine: VllmEngine, model_folder: Path, do: Do[Any], learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = TokenPolicy(model_folder, ModelConfig(path=str(model_folder)))
    do(engine.update_weights(17, held(learner, 17, policy)))
    gone = held(learner, 18, policy)
    held(learner, 19, policy)
    with pytest.raises(BrokerError, match="has newer ones"):
        do(engine.update_weights(18, gone))
    assert set(do(answer(engine, 20)).versions) == {17}, "nothing has come, and it goes on with what it has"

    def breaks_off(*_: Any) -> None:
        raise BrokerError("the learner dies here")

    newest = held(learner, 20, policy)
    with monkeypatch.context() as patch:
        patch.setattr(Channel, "send", breaks_off)
        with pytest.raises(EngineDied, match="version 20 could not be loaded"):
            do(engine.update_weights(20, newest))
    do(engine.stop())
    with pytest.raises(EngineDied):
        do(answer(engine, 20))
    do(engine.start())
    do(engine.update_weights(20, newest))
    completions = do(answers(engine, count=4, max_tokens=50))
    difference = np.abs(logprobs_of(policy, completions) - sampled(completions))
    assert difference.mean() < 1e-4


def test_a_killed_engine_is_noticed_and_can_be_started_again(
    engine: VllmEngine, model_folder: Path, tmp_path: Path, do: Do[Any]
) -> None:
    """Among the last of the module: it leaves the shared engine in its second life."""
    policy = TokenPolicy(model_folder, ModelConfig(path=str(model_folder)))

    async def kill_under_requests() -> None:
        requests = [asyncio.create_task(answer(engine, 300)) for _ in range(4)]
        await asyncio.sleep(0.3)
        # by multiprocessing's name: the title that vLLM gives it is lost where a test has changed the environment
        core = psutil.Process(next(p.pid for p in multiprocessing.active_children() if p.name.startswith("EngineCore")))
        core.suspend()
        update = asyncio.create_task(engine.update_weights(19, publish(policy, tmp_path / "lost")))
        await asyncio.sleep(0.3)
        assert not update.done(), "the update is to be under way when the engine dies"
        core.kill()
        outcomes = await asyncio.wait_for(asyncio.gather(*requests, update, return_exceptions=True), timeout=60)
        assert all(isinstance(outcome, EngineDied) for outcome in outcomes), outcomes

    do(kill_under_requests())
    do(engine.stop())
    do(engine.start())
    do(engine.update_weights(20, publish(policy, tmp_path / "again")))
    completions = do(answers(engine, count=2, max_tokens=20))
    assert {int(version) for completion in completions for version in completion.versions} == {20}


def test_requests_that_are_paused_end_with_the_engine(
    engine: VllmEngine, model_folder: Path, tmp_path: Path, do: Do[Any]
) -> None:
    """As where weights break off on their way into it. One that is given up by who waits for it is only cancelled."""
    policy = TokenPolicy(model_folder, ModelConfig(path=str(model_folder)))

    async def stop_under_requests() -> None:
        requests = [asyncio.create_task(answer(engine, 300)) for _ in range(4)]
        await asyncio.sleep(0.3)
        await engine._llm.pause_generation(mode="keep", clear_cache=True)
        requests[0].cancel()
        await asyncio.sleep(0)
        await engine.stop()
        given_up, *ended = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), timeout=20)
        assert isinstance(given_up, asyncio.CancelledError)
        assert all(isinstance(outcome, EngineDied) for outcome in ended), ended

    do(stop_under_requests())
    do(engine.start())
    do(engine.update_weights(21, publish(policy, tmp_path / "again")))
    assert do(answers(engine, count=2, max_tokens=20))


async def answer(engine: VllmEngine, max_tokens: int, temperature: float = 1.0) -> Completion:
    return await engine.generate(Request(PROMPT, max_tokens=max_tokens, temperature=temperature))


async def answers(engine: VllmEngine, *, count: int, max_tokens: int, temperature: float = 1.0) -> list[Completion]:
    return list(await asyncio.gather(*(answer(engine, max_tokens, temperature) for _ in range(count))))


async def answers_across_update(engine: VllmEngine, version: int, source: Source) -> list[Completion]:
    """Sixteen answers, with an update while they are generated."""
    requests = [asyncio.create_task(answer(engine, 480)) for _ in range(16)]
    await asyncio.sleep(0.5)
    assert not any(request.done() for request in requests), "the answers ended before the update: nothing is proven"
    pause_s = await engine.update_weights(version, source)
    assert pause_s > 0
    return list(await asyncio.gather(*requests))


def assert_each_version_is_its_own(completions: list[Completion], policies: dict[int, TokenPolicy]) -> None:
    """The tokens of a version have the log-probabilities of its weights, over a context recomputed with them."""
    versions = np.concatenate([completion.versions for completion in completions])
    for version, policy in policies.items():
        difference = np.abs(logprobs_of(policy, completions) - sampled(completions))
        assert difference[versions == version].mean() < 1e-3
        assert difference[versions != version].mean() > 0.1, "the two policies are too alike to tell"


def logprobs_of(policy: TokenPolicy, completions: list[Completion], temperature: float = 1.0) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        packed = pack([trajectory(completion) for completion in completions])
        logprobs: np.ndarray[Any, Any] = policy.logprobs(packed, temperature).numpy()
    return logprobs


def sampled(completions: list[Completion]) -> np.ndarray[Any, Any]:
    return np.concatenate([completion.logprobs for completion in completions])


def trajectory(completion: Completion) -> TokenTrajectory:
    return trajectory_of(PROMPT, completion, 0.0, {})


def perturbed(policy: TokenPolicy) -> TokenPolicy:
    """The policy with noise on everything that is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def weights_of(policy: TokenPolicy) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in policy.weights().items()}


def publish(policy: TokenPolicy, folder: Path) -> Path:
    """A folder as the learner's publisher writes it."""
    folder.mkdir()
    weights = weights_of(policy)
    adapter = policy.adapter_config()
    save_file(weights, folder / ("adapter_model.safetensors" if adapter else "model.safetensors"))
    if adapter:
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder
