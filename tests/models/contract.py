"""The test that every family passes. A family's own file subclasses `Contract` and names the family:

class TestScout(Contract):
    family_name = "scout"
    phrases = ("the red circle", "star on the left", "both small squares")
"""

import dataclasses
import re

import pytest
import torch

from refseg.data.collate import collate
from refseg.errors import CheckpointMismatch, InvalidInput
from refseg.models import catalog
from refseg.structures import Example, Output, TextTokens


class Contract:
    family_name: str
    phrases: tuple[str, str, str]  # of different lengths, sayable in the debug variant's vocabulary
    handles_clips = True
    reads_padding = ""  # why padding pixels change the answer, where the published weights depend on it
    without_gradient: tuple[
        str, ...
    ] = ()  # patterns of trained parameters that an ordinary step leaves alone, with reason
    atol = 1e-4  # on scores in [0, 1], float32

    # What the tests are made of

    @pytest.fixture
    def family(self):
        return catalog.family(self.family_name)

    @pytest.fixture
    def model(self, family):
        torch.manual_seed(0)
        return self.prepare(catalog.build(self.family_name, "debug")).eval()

    def prepare(self, model):
        """A hook for families that need a tokenizer before they can read phrases."""
        return model

    def example(self, *, height=61, width=75, frames=None, phrases=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        count = frames or (2 if self.handles_clips else 1)
        phrases = self.phrases if phrases is None else phrases
        pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
        masks = torch.zeros(len(phrases), count, height, width, dtype=torch.bool)
        for row in range(len(phrases)):
            masks[row, :, 5 + 3 * row : 30 + 2 * row, 8:40] = True
        masks[-1, -1] = False  # the last phrase's object leaves
        return Example(
            "made in the test",
            pixels,
            tuple(phrases),
            masks,
            labels=torch.zeros(len(phrases), dtype=torch.int64),
        )

    def batch(self, model, *examples):
        return collate(list(examples), model.config.frame)

    def scores(self, output: Output):
        return output.mask_logits.sigmoid()

    # Words

    def test_a_phrase_is_read_whole_or_refused_or_said_to_be_cut(self, model):
        phrase = " ".join([self.phrases[0]] * 100)
        assert all(model.num_unread(short) == 0 for short in self.phrases)
        try:
            tokens = model.tokenize([phrase])
        except InvalidInput:
            return
        assert model.num_unread(phrase) > 0 or int(tokens.valid.sum()) >= len(phrase.split())

    # Shapes and the three verbs

    def test_output_has_a_row_for_every_phrase_and_a_time_axis(self, model):
        example = self.example()
        output = model(self.batch(model, example))
        assert output.mask_logits.ndim == 5
        assert output.mask_logits.shape[0] == 3
        assert output.mask_logits.shape[2] == len(example.frames)
        if output.class_logits is not None:
            assert output.class_logits.shape[:2] == output.mask_logits.shape[:2]
        if output.boxes is not None:
            assert output.boxes.shape == (*output.mask_logits.shape[:3], 4)

    def test_visual_features_know_nothing_of_the_phrases(self, model):
        batch = self.batch(model, self.example(), self.example(seed=1))
        visual = model.encode_visual(batch.clips)
        assert all(level.shape[0] == 2 for level in visual.maps)
        assert all(level.ndim == 5 for level in visual.maps)
        heights = [level.shape[-2] for level in visual.maps]
        assert heights == sorted(heights, reverse=True)

    def test_forward_is_the_three_verbs_in_a_row(self, model):
        batch = self.batch(model, self.example())
        visual = model.encode_visual(batch.clips).rows(batch.clip_of_phrase)
        text = model.encode_text(model.tokenize(batch.phrases))
        torch.testing.assert_close(model(batch).mask_logits, model.segment(visual, text).mask_logits)

    def test_tokens_are_ids_and_a_valid_mask(self, model):
        tokens = model.tokenize(self.phrases)
        assert isinstance(tokens, TextTokens)
        assert tokens.valid.dtype == torch.bool
        assert tokens.valid.shape == tokens.values.shape[:2]
        assert tokens.valid[:, 0].all()

    @pytest.mark.parametrize("phrase", ["", "   "])
    def test_an_empty_phrase_is_refused_with_a_sentence(self, model, phrase):
        with pytest.raises(InvalidInput, match="empty"):
            model.tokenize([phrase])

    # Together and alone

    @torch.no_grad()
    def test_phrases_together_equal_phrases_one_by_one(self, model):
        together = self.scores(model(self.batch(model, self.example())))
        for row, phrase in enumerate(self.phrases):
            alone = dataclasses.replace(self.example(), phrases=(phrase,), masks=None, labels=None)
            torch.testing.assert_close(
                self.scores(model(self.batch(model, alone)))[0], together[row], atol=self.atol, rtol=0
            )

    @torch.no_grad()
    def test_two_clips_of_one_size_together_equal_each_alone(self, model):
        first, second = self.example(seed=1), self.example(seed=2)
        together = self.scores(model(self.batch(model, first, second)))
        alone = torch.cat([self.scores(model(self.batch(model, clip))) for clip in (first, second)])
        torch.testing.assert_close(together, alone, atol=self.atol, rtol=0)

    @torch.no_grad()
    def test_the_order_of_clips_does_not_matter(self, model):
        first, second = self.example(seed=1), self.example(seed=2)
        there = self.scores(model(self.batch(model, first, second)))
        back = self.scores(model(self.batch(model, second, first)))
        torch.testing.assert_close(there, torch.cat([back[3:], back[:3]]), atol=self.atol, rtol=0)

    @torch.no_grad()
    def test_padding_pixels_are_not_read_as_content(self, model):
        if self.reads_padding:
            pytest.skip(f"published behaviour: {self.reads_padding}")
        batch = self.batch(model, self.example(height=40, width=75))
        before = self.scores(model(batch))
        noisy = torch.where(batch.clips.valid[:, None, None], batch.clips.pixels, torch.randn(()) * 3)
        after = self.scores(
            model(dataclasses.replace(batch, clips=dataclasses.replace(batch.clips, pixels=noisy)))
        )
        torch.testing.assert_close(after, before, atol=self.atol, rtol=0)

    @torch.no_grad()
    def test_ids_of_padding_tokens_are_not_read(self, model):
        tokens = model.tokenize(self.phrases)
        if tokens.valid.all() or tokens.values.ndim != 2:
            pytest.skip("these phrases fill every token")
        visual = model.encode_visual(self.batch(model, self.example()).clips).rows(
            torch.zeros(3, dtype=torch.int64)
        )
        other = TextTokens(torch.where(tokens.valid, tokens.values, tokens.values[0, 0]), tokens.valid)
        answers = [model.segment(visual, model.encode_text(t)) for t in (tokens, other)]
        torch.testing.assert_close(self.scores(answers[0]), self.scores(answers[1]), atol=self.atol, rtol=0)

    # Answers

    @torch.no_grad()
    def test_finished_masks_have_the_size_of_the_source(self, model):
        small, wide = self.example(height=47, width=90, seed=3), self.example(height=83, width=50, seed=4)
        for example in (small, wide):
            batch = self.batch(model, example)
            output = model(batch)
            placements = [batch.placements[i] for i in batch.clip_of_phrase.tolist()]
            for mask in model.finish(output, placements):
                assert mask.dtype == torch.bool
                assert tuple(mask.shape) == (len(example.frames), *example.frames.shape[-2:])
            for mask in model.finish(output, placements, at="canvas"):
                assert tuple(mask.shape[-2:]) == batch.placements[0].canvas

    @torch.no_grad()
    def test_clips_of_different_sizes_share_a_batch(self, model):
        examples = self.example(height=47, width=90, seed=3), self.example(height=83, width=50, seed=4)
        batch = self.batch(model, *examples)
        placements = [batch.placements[i] for i in batch.clip_of_phrase.tolist()]
        sizes = [tuple(mask.shape[-2:]) for mask in model.finish(model(batch), placements)]
        assert sizes == [(47, 90)] * 3 + [(83, 50)] * 3

    @torch.no_grad()
    def test_the_chosen_query_exists_and_its_score_is_a_share(self, model):
        output = model(self.batch(model, self.example()))
        query, score = model.choose(output)
        assert query.shape == (3,)
        assert (query >= 0).all()
        assert (query < output.mask_logits.shape[1]).all()
        if score is not None:
            assert ((score >= 0) & (score <= 1)).all()

    @torch.no_grad()
    def test_bfloat16_agrees_with_float32(self, model):
        batch = self.batch(model, self.example())
        exact = self.scores(model(batch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = self.scores(model(batch))
        assert (exact - rough.float()).abs().mean() < 0.05

    # Learning

    def rule_of(self, family, name):
        return next((rule for rule in family.param_rules if re.search(rule.pattern, name)), None)

    def test_gradients_reach_every_trained_parameter_and_no_frozen_one(self, family, model):
        model.train()
        for name, parameter in model.named_parameters():
            rule = self.rule_of(family, name)
            parameter.requires_grad_(rule is None or rule.trained)
        batch = self.batch(model, self.example(), self.example(seed=1))
        terms = family.criterion(family.loss)(model(batch), batch.targets)
        assert all(torch.isfinite(term) for term in terms.values()), terms
        sum(terms.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not any(
                re.search(pattern, name) for pattern in self.without_gradient
            ):
                assert parameter.grad is not None, f"{name} gets no gradient"
            if not parameter.requires_grad:
                assert parameter.grad is None

    def test_a_few_steps_lower_the_loss(self, family, model):
        torch.manual_seed(0)
        model.eval()  # dropout off: the same function at every step
        batch = self.batch(model, self.example())
        criterion = family.criterion(family.loss)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(8):
            loss = sum(criterion(model(batch), batch.targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert min(losses[-2:]) < losses[0]

    # Weights

    @torch.no_grad()
    def test_save_and_load_is_the_identity(self, model, tmp_path):
        from refseg.checkpoints import native

        native.save(
            tmp_path / "model.safetensors", model, family=self.family_name, variant="debug", origin={}
        )
        loaded, header = native.load(tmp_path / "model.safetensors")
        batch = self.batch(model, self.example())
        assert header.family == self.family_name
        assert torch.equal(loaded(batch).mask_logits, model(batch).mask_logits)

    def test_a_checkpoint_that_lacks_a_tensor_is_refused(self, family, model, tmp_path):
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        from refseg.checkpoints import native

        path = tmp_path / "model.safetensors"
        native.save(path, model, family=self.family_name, variant="debug", origin={})
        state = load_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        gone = next(iter(model.state_dict()))
        del state[gone]
        save_file(state, tmp_path / "less.safetensors", metadata=metadata)
        with pytest.raises((CheckpointMismatch, InvalidInput)):
            native.load(tmp_path / "less.safetensors")

    def test_building_uses_torch_random_numbers_only(self, family):
        torch.manual_seed(3)
        first = catalog.build(self.family_name, "debug").state_dict()
        torch.manual_seed(3)
        second = catalog.build(self.family_name, "debug").state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
