target_sources(qs_quant PRIVATE
  error_collector.cc
  nf4_quantizer.cc
  quant_spec.cc
  quantized_tensor.cc
  quantizer_base.cc
  rtn_quantizer.cc
  tensor_quantizer.cc)
