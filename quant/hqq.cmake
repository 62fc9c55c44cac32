target_sources(qs_quant PRIVATE
  hqq_base.cc
  hqq_dict_quantizer.cc
  hqq_grid_quantizer.cc
  hqq_quantizer.cc)
