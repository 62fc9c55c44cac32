# The two data files are compiled in: a server needs no files beside its binary.
foreach(data catalogue:kCatalogueJson engines:kEnginesJson)
  string(REPLACE ":" ";" data "${data}")
  list(GET data 0 name)
  list(GET data 1 symbol)
  set(input ${CMAKE_CURRENT_SOURCE_DIR}/plan/${name}.json)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/plan_${name}_json.cc)
  add_custom_command(OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${input} -DOUTPUT=${output}
      -DSYMBOL=${symbol} -P ${CMAKE_CURRENT_SOURCE_DIR}/plan/embed.cmake
    DEPENDS ${input} ${CMAKE_CURRENT_SOURCE_DIR}/plan/embed.cmake
    VERBATIM)
  target_sources(qs_quant PRIVATE ${output})
endforeach()
target_sources(qs_quant PRIVATE
  plan/any_tree.cc
  plan/catalogue.cc
  plan/classify.cc
  plan/config_facts.cc
  plan/engines.cc
  plan/files.cc
  plan/findings.cc
  plan/folds.cc
  plan/fused_groups.cc
  plan/glob.cc
  plan/lint.cc
  plan/lint_names.cc
  plan/output_config.cc
  plan/output_names.cc
  plan/overrides.cc
  plan/part_search.cc
  plan/plan.cc
  plan/scheme_targets.cc
  plan/sites.cc
  plan/skip_names.cc
  plan/source_check.cc
  plan/stacks.cc
  plan/ties.cc)
