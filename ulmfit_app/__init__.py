"""ULMFiT, whole: pretrain, fine-tune, classify, evaluate, predict (Howard and Ruder, ACL 2018)."""
