target_sources(qs_quant PRIVATE
  device_estimate.cc
  error_collector.cc
  group_parts.cc
  measured_quantizer.cc
  nf4_quantizer.cc
  phase_times.cc
  quant_spec.cc
  quantized_tensor.cc
  quantizer_base.cc
  rtn_quantizer.cc
  site.cc
  site_accumulator.cc
  solve_group.cc
  tensor_quantizer.cc
  time_estimate.cc)
