"""Five tasks of GLUE: sentences and pairs of sentences."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from condensery.tasks import ACCURACY, Accumulated, Batch, Joined, Metric
from condensery_plugins.tasks.glue_task import Glue, glue


class Sst2(Glue):
    """Is this film review, or this phrase of one, positive? Accuracy.

    Socher et al.: "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013.
    """

    key, file = "sst2", "SST-2"
    columns = (0, None, 1)
    hub_columns = ("sentence", None)
    data_set = glue(
        {
            "SST-2_train.tsv.gz": "48eac26399f8456935f81dd9e3a745c1430adb6c62e233ccfe22db4a0d15d1d1",
            "SST-2_dev.tsv.gz": "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
        },
        {
            "sst2/train": "66a253e67968acfabcbe49dbe9da964b42ac1c851c40ab760e8c8942efdb3229",
            "sst2/validation": "a1371f3b3a7b0bcefa8388799a9359dc3ce76c349cc0079507a7991364fd2a9b",
        },
    )


class Cola(Glue):
    """Is this sentence acceptable English? Matthews correlation.

    Warstadt, Singh, Bowman: "Neural Network Acceptability Judgments", TACL 2019.
    """

    key, file = "cola", "CoLA"
    header = False
    columns = (3, None, 1)
    hub_columns = ("sentence", None)
    metrics = (Metric("matthews", "correlation", True), *ACCURACY)
    base = {**Glue.base, "epochs": 10}
    data_set = glue(
        {
            "CoLA_train.tsv.gz": "cb368ebeb9f27d7ad03720d27ddc95687a311bdb100781a2fe59a5f5b1bc0624",
            "CoLA_dev.tsv.gz": "8c013e21dc39957cac37378d87bebe225b694a0d5fe13eded66c2856628833fd",
        },
        {
            "cola/train": "2e7538afa2000e63f5343f16a758d75c452661a384208399d2035cd2fce45c33",
            "cola/validation": "c14b7219a7d9f9fe3dd291fd000f6623ee413805eb108c9c49578ed50873e4ba",
        },
    )

    def meter(self) -> Joined:
        """Return Matthews correlation, -1 to 1, and what all classifications have; 0 where all answers are the same."""
        from torchmetrics.classification import BinaryMatthewsCorrCoef

        return Joined(Accumulated({"matthews": (BinaryMatthewsCorrCoef(), 1)}, _chosen), super().meter())


class Mrpc(Glue):
    """Do these two sentences say the same? Accuracy and F1.

    Dolan, Brockett: "Automatically Constructing a Corpus of Sentential Paraphrases", IWP 2005. The pinned training file
    has 3,667 pairs, one fewer than GLUE's.
    """

    key, file = "mrpc", "MRPC"
    columns = (3, 4, 0)
    metrics = (ACCURACY[0], Metric("f1", "%", True), *ACCURACY[1:])
    base = {**Glue.base, "epochs": 10}
    data_set = glue(
        {
            "MRPC_train.tsv.gz": "f178bcc72ab4c2c1c778b480912e0c8e1dba3ead150dc1d490d70682ab888c1e",
            "MRPC_dev.tsv.gz": "9e8f284788040f7c9ecde2e1b3c07237c756f926bd9ef8548ef5d34b56f69f17",
        },
        {
            "mrpc/train": "61fd41301e0e244b0420c4350a170c8e7cf64740335fc875a4af2d79af0df0af",
            "mrpc/validation": "33c007dbf5bfa8463d87a13e6226df8c0fcf2596c2cd39d0f3bb79754e00f50f",
        },
    )

    def meter(self) -> Joined:
        """Return accuracy, F1 of the paraphrases in percent, and what all classifications have."""
        from torchmetrics.classification import BinaryF1Score

        return Joined(super().meter(), Accumulated({"f1": (BinaryF1Score(), 100)}, _chosen))


class Rte(Glue):
    """Does the second sentence follow from the first? Accuracy; class 0 is entailment.

    Joined from the RTE challenges 1, 2, 3 and 5: Dagan, Glickman, Magnini: "The PASCAL Recognising Textual Entailment
    Challenge", 2006, and its successors.
    """

    key, file = "rte", "RTE"
    columns = (1, 2, 3)
    words = {"entailment": 0, "not_entailment": 1}
    base = {**Glue.base, "epochs": 10}
    data_set = glue(
        {
            "RTE_train.tsv.gz": "41e3a9b063433392343fad9e962cf2f58b681c78d8f71592f4186f0837246c5c",
            "RTE_dev.tsv.gz": "80230dfa1347282e7b532b06a1004a76a710087541189bf874223ddf0e3819fb",
        },
        {
            "rte/train": "a6252ab17015d718f6de1effe0980f7b158df63e3d16207cd8bd396b608e5147",
            "rte/validation": "fb2aa2e04f551133ba663617a15ae133dc22b0f6a969bc0629b5ea6003ee9cf8",
        },
    )


class Stsb(Glue):
    """How alike are these two sentences, 0 to 5? A regression: one output, mean squared error; two correlations.

    Cer, Diab, Agirre, Lopez-Gazpio, Specia: "SemEval-2017 Task 1: Semantic Textual Similarity", SemEval 2017.
    """

    key, file = "stsb", "STS-B"
    columns = (-3, -2, -1)
    words = {}
    scores = 1
    metrics = (
        Metric("pearson", "correlation", True),
        Metric("spearman", "correlation", True),
        Metric("loss", "squared score", False),
    )
    base = {**Glue.base, "epochs": 10}
    data_set = glue(
        {
            "STS-B_train.tsv.gz": "41c4d978b6162abdcada7e49a982211954cca5459c228db478af333124b257a2",
            "STS-B_dev.tsv.gz": "fe7dc0632a5033562f3cadff991f6e8d9b9b6311861660e78c3c82eb7db67f59",
        },
        {
            "stsb/train": "bbd93bbb988fd18437e02185fe3b2bd9a18350376c392e7820de9df1b247ed1f",
            "stsb/validation": "152de7cf1fa34ee4df1c243bd209b02ade21a1d5c4fb3b7da5240f78e4000aa9",
        },
    )

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Return the mean squared error over the batch, or ``None`` without labels.

        :param outputs: ``(batch, 1)``.
        """
        return None if batch.labels is None else nn.functional.mse_loss(outputs.squeeze(1), batch.labels)

    def meter(self) -> Accumulated:
        """Return Pearson's and Spearman's correlation (0 for a constant answer) and the mean squared error."""
        from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

        kinds = {"pearson": PearsonCorrCoef, "spearman": SpearmanCorrCoef, "loss": MeanSquaredError}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that ranks need every answer: one number for each example
            metrics = {name: (kind().set_dtype(torch.float64), 1.0) for name, kind in kinds.items()}
        return Accumulated(metrics, lambda outputs: outputs.squeeze(1).double())


def _chosen(outputs: Tensor) -> Tensor:
    """Return which of two classes each example is given."""
    return outputs.argmax(1)
