"""How good the features are while they are learned: kNN accuracy of every stage, between the epochs of a pretraining."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.hooks import Hook
from torch import nn

from pretrain.engine.loop import unchanged_random_state
from pretrain.errors import RunFailedError
from pretrain.eval.data import DEFAULT_IMAGE_SIZE, LabelledData, load_labelled_data
from pretrain.eval.features import PooledFeatures
from pretrain.eval.knn import nearest_neighbours
from pretrain.local.sequential import learner_of


class KnnMonitorHook(Hook):
    """Logs ``knn_<stage>`` (0 to 1), see :func:`pretrain.eval.knn.nearest_neighbours`, and changes nothing of the training.

    Random states, batch norm statistics and modes are afterwards what they were before. The values go to the log, to
    TensorBoard and to the curves of ``tools/visualize.py``.

    Args:
        data_root: where the labelled images are.
        every: epochs between two measurements; the last epoch always has one.
        data: name or config of the data set, see :func:`pretrain.data.sources.build_source`.
        train_split: of the images that vote, by default the data set's.
        test_split: of the images that are measured on, by default the data set's.
        limit: number of images in a class-balanced subset that vote; None for all.
        image_size: side of the views in pixels; None for that of the pretraining.
        k: number of neighbours.
        temperature: tau of the votes' weights.
        batch_size: images that are run through the encoder at once, of all processes together.
        workers: processes that load images.

    Raises:
        ValueError: ``every`` is below 1.
    """

    def __init__(
        self,
        data_root: str,
        every: int = 10,
        data: str | Mapping = "folder",
        train_split: str | None = None,
        test_split: str | None = None,
        limit: int | None = None,
        image_size: int | None = None,
        k: int = 200,
        temperature: float = 0.07,
        batch_size: int = 256,
        workers: int = 0,
    ) -> None:
        if every < 1:
            raise ValueError(f"every of monitor is {every}; at least 1 epoch is needed")
        self.every, self.image_size = every, image_size
        self._sets = dict(source=data, data_root=data_root, train_split=train_split, test_split=test_split, limit=limit,
                          workers=workers)
        self._options = dict(k=k, temperature=temperature, batch_size=batch_size)
        self._data: LabelledData | None = None

    def check(self, runner) -> None:
        """Opens the images, so that a run that cannot be monitored is refused before it begins.

        Raises:
            ValueError: see :func:`pretrain.eval.data.load_labelled_data`.
        """
        views = getattr(learner_of(runner).data_preprocessor, "views", None) or getattr(
            runner.train_dataloader.dataset, "views", None)
        size = self.image_size or getattr(views, "size", DEFAULT_IMAGE_SIZE)
        self._data = load_labelled_data(**self._sets, image_size=size)
        # with fewer images than neighbours all would vote, and a warning come every time
        self._options["k"] = min(self._options["k"], len(self._data.train_indices))

    def before_train(self, runner) -> None:
        """Opens the images, in case that was not done before."""
        if self._data is None:
            self.check(runner)

    def after_train_epoch(self, runner) -> None:
        """Measures where it is time to."""
        epoch = runner.epoch + 1
        if epoch % self.every and epoch != runner.max_epochs:
            return
        learner = learner_of(runner)
        pooled = PooledFeatures(learner.encoder, list(learner.encoder.stages), learner.autocast).to(learner.mean.device)
        try:
            with unchanged_random_state(), _eval_mode(learner.encoder):
                stages, _ = nearest_neighbours(pooled, self._data, **self._options)
        except (RunFailedError, OSError) as error:  # the training does not depend on these images
            runner.logger.warning(f"epoch {epoch} is not monitored: {error}")
            return
        shares = {f"knn_{name}": result["top1"] / 100 for name, result in stages.items()}
        runner.logger.info(f"epoch {epoch}: " + ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares.items()))
        runner.visualizer.add_scalars({**shares, "epoch": epoch, "iter": runner.iter}, step=runner.iter)


@contextmanager
def _eval_mode(encoder: nn.Module) -> Iterator[None]:
    """Holds an encoder in eval mode, and gives every part its own mode back."""
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
