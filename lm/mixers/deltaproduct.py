"""DeltaProduct: S_tj = (I - beta_tj k_tj k_tj^T) S_t(j-1) + beta_tj k_tj v_tj^T.

Siems et al. 2025, arXiv 2502.10297, section 3: each token makes J delta steps, with
keys, values and betas of their own, from S_t0 = e^{g_t} S_(t-1)J; o_t = S_tJ^T q_t.
"""

from lm.mixers.gated_deltanet import GatedDeltaNet
from lm.sequence import Sequence


class DeltaProduct(GatedDeltaNet):
    """householders: J, delta steps of a token; the other keys are DeltaNet's.

    decay: "gated" as in Gated DeltaNet, before the first step of a token, or "none".
    """

    eigenvalues: str = "signed"
    householders: int = 2
    decay: str = "gated"

    choices = GatedDeltaNet.choices | {"decay": ("gated", "none")}

    def log_decay(self, x_BxTxD, seq: Sequence):
        if self.decay == "none":
            return None
        return super().log_decay(x_BxTxD, seq)
