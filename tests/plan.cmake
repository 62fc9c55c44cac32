foreach(name plan plan_rules plan_lint plan_config plan_sites plan_stacks
             plan_multimodal plan_overrides plan_towers glob)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc quant/plan_cases.cc
    LIBS qs_quant nlohmann_json::nlohmann_json
    LABELS unit)
endforeach()
qs_test(quant_output_names_test
  SOURCES quant/output_names_test.cc
  LIBS qs_quant
  LABELS unit)
