# Initial weights. The submit host fetches those of ImageNet, so that jobs need no internet.

from retinaflow.networks import earlier_model
from retinaflow.networks.extractor_files import needed_extractor_files


def weights_of(network):
    """File of the initial weights of a network, or files of the model that it starts from. Empty for random weights."""
    weights = FEATURE_NETWORKS[network].weights
    file = extractor_file(FEATURE_NETWORKS[network].backbone)
    if file:
        return [needed.as_posix() for needed in needed_extractor_files(file)]
    if weights == "random":
        return []
    earlier = earlier_model.earlier_model(weights)
    if earlier:
        return [file.as_posix() for file in earlier_model.needed_files(earlier)]
    return [path("weights", f"{network}.h5") if weights == "imagenet" else weights]


def earlier_images(network):
    """File of the images that the model which a network starts from was trained on. None for other weights."""
    earlier = earlier_model.earlier_model(FEATURE_NETWORKS[network].weights)
    return [earlier.with_name(earlier_model.TRAINED_ON).as_posix()] if earlier else []


def fetched_weights():
    """Files of weights that have to be fetched."""
    return remote_paths("weights") + [
        file for network in FEATURE_NETWORKS for file in weights_of(network) if file == path("weights", f"{network}.h5")
    ]


rule fetch_weights:
    output:
        path("weights", "{network}.h5"),
    log:
        path("logs", "weights", "{network}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/weights.py"
