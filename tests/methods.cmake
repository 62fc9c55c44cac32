foreach(name quant_spec measured_quantizer nf4_double_quant large_slices
        tensor_report faults quality solve_group phase_times group_memory
        site_accumulator time_estimate)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()

# Several threads.
foreach(name tensor_quantizer site)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit tsan)
endforeach()
