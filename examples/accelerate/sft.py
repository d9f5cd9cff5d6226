"""Supervised fine-tuning with MoFO on one GPU or on many: the file after ``--config_file`` says how it is spread.

accelerate launch --config_file examples/accelerate/fsdp2.yaml examples/accelerate/sft.py \
    --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --dataset_name trl-lib/Capybara --output_dir tuned

Takes the flags of ``trl sft`` too. A run that was killed goes on with ``--resume_from_checkpoint
tuned/checkpoint-500``.
"""

from dataclasses import dataclass
from typing import Literal

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser

from mofo import MoFO


@dataclass
class MoFOArguments:
    """Arguments of the optimizer that trl has no flags for."""

    fraction: float = 0.15
    on_flat: Literal["refuse", "per_piece"] = "refuse"


parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, MoFOArguments))
script, training, model, mofo = parser.parse_args_and_config()
trainer = SFTTrainer(
    model=model.model_name_or_path,
    args=training,
    train_dataset=load_dataset(script.dataset_name, split=script.dataset_train_split),
    optimizer_cls_and_kwargs=(MoFO, {"lr": training.learning_rate, **vars(mofo)}),
)
trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
if trainer.is_fsdp_enabled:  # with SHARDED_STATE_DICT transformers would save no model here
    trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
trainer.save_model()
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
