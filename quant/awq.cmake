target_sources(qs_quant PRIVATE
  awq_checks.cc
  awq_estimate.cc
  awq_fold.cc
  awq_folded_tensor.cc
  awq_group.cc
  awq_judge.cc
  awq_quantizer.cc
  awq_scales.cc
  awq_tile.cc
  awq_transform.cc)
