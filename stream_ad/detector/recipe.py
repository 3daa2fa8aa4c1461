"""The numbers of the recipe: one fixed setting for every data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and lengths of training; the defaults were chosen once, on many tables, and hold for all.

    Fewer steps make a quicker and blunter detector, which is what tests want.
    """

    rank_table: int = 1024
    """Values of each feature that the ranks are kept by."""
    autoencoder_width: int = 128
    code_size: int = 32
    autoencoder_steps: int = 800
    fuse_codes: bool = False
    """Whether the VAE learns over the codes of both autoencoders, as in the paper, or over that of V alone, which knows
    the values themselves. Over tables and streams the second code brings nothing."""
    latent_size: int = 8
    vae_width: int = 128
    vae_steps: int = 400
    rarity_width: int = 64
    rarity_steps: int = 600
    prototypes: int = 2048
    outskirts_share: float = 0.25
    synthetic_outliers: int = 20_000
    classifier_networks: int = 4
    classifier_width: int = 32
    classifier_steps: int = 500
    batch: int = 256
    calibration_share: float = 0.5
    """Share of the rows that the stages are not trained on; classifier, scales and calibration are fitted on them."""
    cross_fit_below: int = 4000
    """Windows with fewer rows are calibrated by cross-fitting instead: no row is spared."""
    cross_fit_folds: int = 3
