"""A method of your own: an extra that goes with any optimizer, in a package of its own.

`pip install -e examples/own_method`, and every command knows it: `mofo compare --methods adamw,frozen-embeddings`.
"""

from transformers import PreTrainedModel

from mofo.methods.part import Part, Setup, setting


class FrozenEmbeddings(Part):
    """The token embeddings keep the base's values."""

    name = "frozen-embeddings"
    label = "frozen embeddings"
    cost = "no state of the embeddings"

    norms: bool = setting(False, "whether norms and biases keep theirs too", short="n")

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Freeze the embeddings; of tied weights that is the output layer too."""
        model.get_input_embeddings().requires_grad_(False)
        if self.norms:
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.dim() > 1 and parameter.requires_grad)
        return model
