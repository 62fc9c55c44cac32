foreach(name awq_format bitsandbytes checkpoint compressed_tensors dequantize gptq_format
        hqq_format json posix_fault utf8)
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

# Rows from several threads.
qs_test(formats_grid_writer_test
  SOURCES formats/grid_writer_test.cc
  LIBS qs_quant OpenSSL::Crypto
  LABELS unit tsan)
qs_test(formats_vectors_test
  SOURCES formats/packing_vectors_test.cc formats/vectors_test.cc
  LIBS qs_quant nlohmann_json::nlohmann_json
  LABELS unit SEPARATE)

find_package(Python3 COMPONENTS Interpreter REQUIRED)
add_test(NAME formats_vectors_are_current
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/data/make_vectors.py
    --check)
set_tests_properties(formats_vectors_are_current PROPERTIES LABELS unit
  TIMEOUT 300)
