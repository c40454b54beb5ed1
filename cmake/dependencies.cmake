# Debian's packages; docs/dependencies.md says why each.
find_package(PkgConfig REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(Boost 1.74 REQUIRED)  # headers only
find_package(GTest REQUIRED)
foreach(pair cares=libcares re2=re2 idn2=libidn2 psl=libpsl mnl=libmnl seccomp=libseccomp capng=libcap-ng nghttp2=libnghttp2
        expat=expat hs=libhs zlib=zlib brotlidec=libbrotlidec brotlienc=libbrotlienc zstd=libzstd sodium=libsodium sqlite=sqlite3 curl=libcurl archive=libarchive)
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 name)
  list(GET pair 1 module)
  pkg_check_modules(${name} REQUIRED IMPORTED_TARGET ${module})
endforeach()
