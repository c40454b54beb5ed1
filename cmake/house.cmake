# One folder, one library: postern_room(wire LINK postern_base ...) builds src/wire/*.cc as postern_wire and
# src/wire/*_test.cc as the test program wire_test. Which rooms may include which is kept by tests/house_test.py.
include(GoogleTest)

file(SHA256 ${CMAKE_SOURCE_DIR}/cmake/precompiled.h header_sum)
string(SHA256 POSTERN_HEADER_SUM
  "${header_sum} ${CMAKE_CXX_COMPILER_VERSION} ${CMAKE_BUILD_TYPE} ${POSTERN_SANITIZE} ${CMAKE_CXX_FLAGS}")

function(postern_room name)
  cmake_parse_arguments(ROOM "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "/main\\.cc$")
  if(sources)
    add_library(postern_${name} STATIC ${sources})
    target_include_directories(postern_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(postern_${name} PUBLIC ${ROOM_LINK})
    target_precompile_headers(postern_${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled.h)
    # ccache compares this instead of the compiled header, whose bytes differ from directory to directory.
    file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/CMakeFiles/postern_${name}.dir/cmake_pch.hxx.gch.sum ${POSTERN_HEADER_SUM})
  else()
    add_library(postern_${name} INTERFACE)
    target_include_directories(postern_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(postern_${name} INTERFACE ${ROOM_LINK})
  endif()
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE postern_${name} GTest::gmock GTest::gtest_main)
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST)
  endif()
endfunction()
