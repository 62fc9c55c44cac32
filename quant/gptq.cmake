target_sources(qs_quant PRIVATE
  gptq_factor.cc
  gptq_quantizer.cc)
