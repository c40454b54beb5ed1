#include "box/image_json.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::box {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string blob(char digit, std::string_view more = "") {
  return fmt::format(R"({{"mediaType": "m", "digest": "sha256:{}", "size": 7{}}})", std::string(64, digit),
                     more);
}
std::string tagged(char digit, std::string_view name, std::string_view more = "") {
  return blob(digit,
              fmt::format(R"(, "annotations": {{"org.opencontainers.image.ref.name": "{}"}}{})", name, more));
}
std::string index(const std::string& entries) {
  return R"({"schemaVersion": 2, "manifests": [)" + entries + "]}";
}

TEST(ImageJson, AnIndexLeadsToTheImageOfTheTag) {
  const std::string two = index(tagged('a', "old") + "," + tagged('b', "images.example/debian:12"));
  EXPECT_EQ(read_image_index(two, "old")->blob.digest, std::string(64, 'a'));
  const auto second = read_image_index(two, "12");
  EXPECT_EQ(second->blob.path, "blobs/sha256/" + std::string(64, 'b'));
  EXPECT_EQ(second->blob.size, 7u);
  EXPECT_FALSE(second->is_index);
  EXPECT_THAT(read_image_index(two, "").error().detail,
              HasSubstr("say which of these tags: old, images.example"));
  EXPECT_THAT(read_image_index(two, "2").error().detail, HasSubstr("no tag '2'"));
  EXPECT_EQ(read_image_index(index(blob('c')), "")->blob.digest, std::string(64, 'c'));
}

TEST(ImageJson, OtherMachinesImagesAndAttestationsAreNotTaken) {
  const std::string other = blob('a', R"(, "platform": {"architecture": "s390x", "os": "linux"})");
  const std::string beside = blob('b', R"(, "platform": {"architecture": "unknown", "os": "unknown"})");
  EXPECT_THAT(read_image_index(index(other + "," + beside), "").error().detail,
              HasSubstr("none for this machine"));
  EXPECT_EQ(read_image_index(index(other + "," + beside + "," + blob('c')), "")->blob.digest,
            std::string(64, 'c'));
}

TEST(ImageJson, ADigestIsSixtyFourDigitsAndNoPath) {
  for (const std::string digest : {"", "sha512:aa", "sha256:../../etc/passwd", "sha256:", "sha256", "SHA256"})
    EXPECT_FALSE(read_image_index(index(fmt::format(R"({{"digest": "{}", "size": 1}})", digest)), ""))
        << digest;
  EXPECT_FALSE(
      read_image_index(index(fmt::format(R"({{"digest": "sha256:{}"}})", std::string(64, 'a'))), ""));
}

TEST(ImageJson, AManifestHasItsLayersInOrder) {
  const auto manifest = read_image_manifest(
      fmt::format(R"({{"config": {}, "layers": [{}, {}]}})", blob('1'), blob('2'), blob('3')));
  ASSERT_TRUE(manifest);
  EXPECT_EQ(manifest->config.digest, std::string(64, '1'));
  ASSERT_EQ(manifest->layers.size(), 2u);
  EXPECT_EQ(manifest->layers[1].digest, std::string(64, '3'));
  std::string many = blob('2');
  for (std::size_t i = 0; i < image_layers_max; ++i) many += "," + blob('2');
  EXPECT_FALSE(read_image_manifest(fmt::format(R"({{"config": {}, "layers": [{}]}})", blob('1'), many)));
  for (const char* bad :
       {"", "[]", "{}", R"({"layers": {}})", R"({"layers": []})", R"({"layers": [1], "config": 2})"})
    EXPECT_FALSE(read_image_manifest(bad)) << bad;
}

TEST(ImageJson, AConfigurationSaysHowProgramsRun) {
  const auto config = read_image_config(
      R"({"config": {"Env": ["PATH=/bin", "no name", "=x", "A=b=c"], "WorkingDir": "/app", "User": "1000"}})");
  ASSERT_TRUE(config);
  EXPECT_THAT(config->environment, ElementsAre("PATH=/bin", "A=b=c"));
  EXPECT_EQ(config->work_directory, "/app");
  EXPECT_EQ(config->user, "1000");
  EXPECT_EQ(read_image_config(R"({"config": {"WorkingDir": "app"}})")->work_directory, "");
  EXPECT_TRUE(read_image_config("{}"));
  EXPECT_TRUE(read_image_config(R"({"config": null})"));
  EXPECT_FALSE(read_image_config(
      fmt::format(R"({{"config": {{"Env": ["A={}"]}}}})", std::string(image_environment_bytes_max, 'x'))));
}

TEST(ImageJson, WhatDockerSavesIsRead) {
  const char* saved =
      R"([{"Config": "c.json", "RepoTags": ["a:1", "a:2"], "Layers": ["x/layer.tar", "y/layer.tar"]}])";
  EXPECT_EQ(read_docker_manifest(saved, "")->layers[1].path, "y/layer.tar");
  EXPECT_EQ(read_docker_manifest(saved, "2")->config.path, "c.json");
  EXPECT_FALSE(read_docker_manifest(saved, "3"));
  EXPECT_TRUE(read_docker_manifest(R"([{"Config": "c", "RepoTags": null, "Layers": []}])", ""));
  for (const char* bad : {"", "{}", "[]", "[1]", R"([{"Config": "c", "Layers": [1]}])"})
    EXPECT_FALSE(read_docker_manifest(bad, "")) << bad;
}

TEST(ImageJson, WhatIsTooDeepIsNoJson) {
  EXPECT_FALSE(read_image_config(R"({"config": {"Env": )" + std::string(1'000'000, '[') + "}}"));
  EXPECT_FALSE(read_image_config(std::string(image_json_bytes_max + 1, ' ') + "{}"));
}

}  // namespace
}  // namespace postern::box
