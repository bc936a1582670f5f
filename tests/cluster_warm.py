"""Imported by the process that workers are forked from: all that training loads is there then."""

import numpy as np
import torch

import posterior_collapse as pc

torch.set_num_threads(1)  # others would not survive a fork
pc.sweep([pc.VAESpec(1), pc.VAESpec(1, beta=2)], np.eye(4), "mlp", hidden=(2,), epochs=1)
