target_sources(qs_quant PRIVATE
  gptq_factor.cc
  gptq_quantizer.cc
  gptq_rows.cc
  gptq_starts.cc
  gptq_tile.cc)
