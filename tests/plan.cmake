foreach(name plan plan_rules plan_lint plan_config plan_sites plan_stacks
             plan_multimodal plan_overrides plan_towers glob)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc quant/plan_cases.cc
    LIBS qs_quant nlohmann_json::nlohmann_json
    LABELS unit)
endforeach()
foreach(name output_names part_search)
  qs_test(quant_${name}_test
    SOURCES quant/${name}_test.cc
    LIBS qs_quant
    LABELS unit)
endforeach()
