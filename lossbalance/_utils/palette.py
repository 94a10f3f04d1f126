"""The colours of all plots, told apart by colour-blind readers: Okabe and Ito (2008), https://jfly.uni-koeln.de/color."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
INK, PAPER, MUTED = "#1b1f24", "#ffffff", "#8a929c"
