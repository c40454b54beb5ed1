#include "wire/presigned.h"

#include <gtest/gtest.h>
#include <string>

namespace postern::wire {
namespace {

TEST(Presigned, IsWhatTheThreeServicesSign) {
  for (const char* target :
       {"/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261124%2Fus-east-1%2Fs3%2Faws4_"
        "request&X-"
        "Amz-Date=20261124T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=ab",
        "/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a&X-Goog-Signature=ab",
        "/c/blob?sv=2024-11-04&st=a&se=b&sr=b&sp=r&sig=x%3D", "/c/blob?si=policy&sr=c&sv=2024-11-04&sig=x"})
    EXPECT_TRUE(is_presigned(target)) << target;
}

TEST(Presigned, IsNotWhatHasOnlyAPartOfIt) {
  for (const char* target :
       {"/", "/?", "/?sig=x", "/?sv=a&sig=x", "/?sv=a&se=b", "/?sv=a&se=b&sig=", "/?X-Amz-Signature=ab",
        "/?X-Amz-Algorithm=a&X-Amz-Signature=ab", "/?x-amz-algorithm=a&x-amz-credential=b&x-amz-signature=c",
        "/?X-Goog-Algorithm=a&X-Amz-Credential=b&X-Goog-Signature=c", "/sv=a&se=b&sig=c",
        "/?a=X-Amz-Algorithm=a&b=X-Amz-Credential=b&c=X-Amz-Signature=c", "/?Sv=a&se=b&sig=c"})
    EXPECT_FALSE(is_presigned(target)) << target;
}

}  // namespace
}  // namespace postern::wire
