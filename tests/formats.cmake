foreach(name bitsandbytes checkpoint compressed_tensors json posix_fault)
  set(more)
  if(name STREQUAL "bitsandbytes")
    set(more formats/bitsandbytes_decode_test.cc)
  endif()
  qs_test(formats_${name}_test
    SOURCES formats/${name}_test.cc ${more}
    LIBS qs_quant qs_testing OpenSSL::Crypto
    LABELS unit)
endforeach()
qs_test(formats_safetensors_test
  SOURCES formats/safetensors_header_test.cc formats/safetensors_read_test.cc
    formats/safetensors_write_test.cc
  LIBS qs_quant qs_testing OpenSSL::Crypto
  LABELS unit)
qs_test(formats_vectors_test
  SOURCES formats/vectors_test.cc
  LIBS qs_quant nlohmann_json::nlohmann_json
  LABELS unit)

find_package(Python3 COMPONENTS Interpreter REQUIRED)
add_test(NAME formats_vectors_are_current
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/data/make_vectors.py
    --check)
set_tests_properties(formats_vectors_are_current PROPERTIES LABELS unit
  TIMEOUT 300)
